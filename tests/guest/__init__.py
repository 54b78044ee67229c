"""Guest kernels under emulation: where kprobes and fentry can be tested on a host that has neither."""
