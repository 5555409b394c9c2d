"""What the documents say is so: links, tables, code, names."""
