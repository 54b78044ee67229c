"""The programs: each a small declaration of its hooks, rows and charts."""
