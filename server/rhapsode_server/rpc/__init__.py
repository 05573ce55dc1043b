"""The wire: the only user of gRPC."""
