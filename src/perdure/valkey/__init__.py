"""What all users of Valkey share: the connection, the names of keys, the server-side functions, the embedded server."""
