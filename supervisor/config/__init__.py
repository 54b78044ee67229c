"""The configuration: Netdata's files read, checked and resolved into one `Config`.

Each module knows only those above it:

    errors     what stops the program (exit status 78)
    problems   what is told about a file, and goes on
    files      opening a file, whatever stands in its place
    ini        bytes -> sections and entries, each with its line
    kinds      text of a value -> checked value
    options    the table of every key of every file
    settings   entries + table -> values and problems
    model      the resolved values, as frozen dataclasses
    load       where the files are, who overrides whom
"""
