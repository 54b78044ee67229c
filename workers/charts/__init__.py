"""The charts, as tables: one file for each program, `<program>.csv`, one line for each chart.

scope       whose values: system (the host), apps, cgroup, services (each group of processes), or device (each
            row that the worker names; `device ext4` is for the row of that name alone)
naming      classic (Netdata up to v1.43), modern (v1.44 on), both; for the chart that moved, before 1.42 and
            from 1.42
id          type.id, title, units, family, context, kind, priority, module: the words of Netdata's CHART line.
            The priority `2160+` grows by one with each chart of its program
dimensions  `id/name = sum; …`, the name may be left out. A sum is `column+column*8/1000`; a minus
            before it is the multiplier -1. `read *` stands for the 24 bins of the histogram `read`

`{group}` in an id makes a chart for each group, in a dimension a dimension for each group.
"""
