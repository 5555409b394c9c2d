"""What every part of the library uses: seeds, numerics, memory, tensor files, errors."""
