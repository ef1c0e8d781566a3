"""What the decoding modules are made of, one idea a file."""
