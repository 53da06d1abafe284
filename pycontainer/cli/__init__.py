"""The command line: parses, calls the public interface, prints."""
