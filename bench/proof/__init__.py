"""`python -m bench`: every claim of speed in one run, as a table of rows with a goal and a verdict each.

`scenes` say what is asked and what figure comes of it (`rates`, `prefixes`, `answers`, `disturbance`, `box`), `sides`
who is asked, `rows` which figures are compared and what they must reach, `judge` what the figures say of that, `record`
what is kept, `perform` runs.
"""
