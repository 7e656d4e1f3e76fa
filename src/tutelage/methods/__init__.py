"""One file a method: a function from the names of networks to a `Graph`. The file's name is the method's name."""
