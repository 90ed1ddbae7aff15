"""Reports: what studies found, as one file to read, print and pass on.

`thalweg.reports.page` writes it. (The package is not called `report` because that is the
function.)
"""
