"""What connects ckpt-async with other libraries: a module for each, which imports its library. None is imported by itself."""
