"""The kernel side: attach plans, loaders, maps as arrays, identities of processes."""
