"""Products with the Hessian, and largest eigenvalues, by another package in its own environment.

    .venv-peers/bin/pip install --no-deps pyhessian==0.1 curvlinops-for-pytorch==3.0.1 \\
      einops einconv opt-einsum unfoldNd linear_operator backpack-for-pytorch jaxtyping \\
      wadler_lindig scipy

Called by `curvature.py` with the name of the package and a file that holds the network's name, its
state, data and vectors. Each package gets batches of the same size as ours. Prints one line of
JSON: seconds of each round of a plain gradient, of one product and of eight, and what
came out.
"""

import json
import sys
import time
import warnings

import numpy as np
import torch
from curvature_networks import NETWORKS, plain_gradient
from torch import nn


def pyhessian_products(model, batches):
    """PyHessian multiplies by one vector at a time, in parts."""
    from pyhessian import hessian

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = hessian(model, nn.CrossEntropyLoss(), dataloader=batches, cuda=False)
    shapes = [p.shape for p in found.params]
    sizes = [shape.numel() for shape in shapes]

    def products(vectors):
        rows = []
        for vector in vectors:
            parts = [v.view(s) for v, s in zip(vector.split(sizes), shapes, strict=True)]
            rows.append(torch.cat([p.reshape(-1) for p in found.dataloader_hv_product(parts)[1]]))
        return torch.stack(rows)

    def largest(count, tolerance):
        values, vectors = found.eigenvalues(maxIter=500, tol=tolerance, top_n=count)
        return values, torch.stack([torch.cat([p.reshape(-1) for p in v]) for v in vectors])

    return products, largest


def curvlinops_products(model, batches):
    """Curvlinops multiplies by a matrix; eigenvalues come from SciPy, as its documentation says."""
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    operator = HessianLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        batches,
        check_deterministic=False,
    )

    def products(vectors):
        return (operator @ vectors.T.contiguous()).T

    def largest(count, tolerance):
        values, vectors = eigsh(operator.to_scipy(), k=count, which="LA", tol=tolerance)
        return values[::-1].tolist(), torch.from_numpy(vectors[:, ::-1].T.copy())

    return products, largest


PEERS = {"PyHessian": pyhessian_products, "curvlinops": curvlinops_products}


def clocked(work):
    """Return what a piece of work returns, and its seconds."""
    clock = time.perf_counter()
    found = work()
    return found, time.perf_counter() - clock


def main():
    """Measure in turns."""
    name, place = sys.argv[1:3]
    given = torch.load(place, weights_only=True)
    torch.set_num_threads(given["threads"])
    model = NETWORKS[given["network"]]().eval()
    model.load_state_dict(given["state"])
    size = given["batch"]
    x, y = given["data"]
    batches = [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]
    products, largest = PEERS[name](model, batches)
    vectors = given["vectors"]
    products(vectors[:1])
    rounds = []
    for _ in range(given["rounds"]):
        _, unit = clocked(lambda: plain_gradient(model, batches))
        found, one = clocked(lambda: products(vectors[:1]))
        _, eight = clocked(lambda: products(vectors))
        rounds.append({"gradient": unit, "one product": one, "eight products": eight})
    result = {"rounds": rounds, "eigenvalues": {}}
    for count in given["counts"]:
        (values, eigenvectors), seconds = clocked(lambda n=count: largest(n, given["tolerance"]))
        torch.save(eigenvectors, f"{place}.{count}")
        units = seconds / float(np.median([each["gradient"] for each in rounds]))
        result["eigenvalues"][count] = {"gradients": units, "values": [float(v) for v in values]}
    torch.save(found[0], f"{place}.product")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
