"""The language the actors speak: typed values, encodings, signatures and rules, without any I/O."""
