"""The explorer: evaluates more points of a line or plane where a reader looks.

refusals, strict_json      what a request may look like, and what is said otherwise
coordinates, definitions   which points are asked for, on which section
catalogue, evaluation      anchors of a run, and costs at combinations of them (torch)
store, outcome             what stays on disk: requests, points, records
explorer                   the queue, and the one thread that evaluates
server                     HTTP on the loopback interface
"""
