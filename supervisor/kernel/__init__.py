"""The kernel side: attach plans, loaders, maps as arrays, identities of processes.

Of what a loader is made, each module knows only those above it:

    plans        by what each hook can be attached
    reasons      why a hook is not attached
    libbcc       what BCC and its library are asked to do
    request      what a loader is asked for
    symbols      the kernel's functions
    source       the C text of a program
    candidates   which plans are worth compiling here
    hooks        attaches each hook by the first of its plans that works
    loader       its main function, from the namespace to the handover
"""
