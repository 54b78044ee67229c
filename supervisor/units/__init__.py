"""The kinds of units: what each runs, and what it does when that has started, ended or been stopped.

Each module knows only those above it, and unit.py, which has what all of them do:

    template     the process that workers are copies of
    loaders      whose loader runs now, and whose after it
    house        what all units share
    loading      a unit with kernel objects, which a loader makes
    core         the identity program
    configured   what the configuration makes of a program
    program      a program: its loaders and its worker
    resolver     the process that asks for names of hosts
    aggregator   the aggregator
"""
