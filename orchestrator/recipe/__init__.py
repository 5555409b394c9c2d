"""What a user asks for: a YAML file, checked to the last key and parsed once."""
