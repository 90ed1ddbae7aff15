"""A line of 51 points through an MLP: thalweg against the loop that users write.

The usual loop sets the parameters with `load_state_dict` and passes a `DataLoader` at every point.
Both evaluate the same points on the same data, in turn, and must agree to 1e-6. What counts is the
median ratio of the pairs: single times mean little on a shared machine.

    python benchmarks/profile_line.py [--pairs 3] [--points 51] [--examples 10000]
"""

import argparse
import itertools
import statistics
import time

import numpy as np
import torch

import thalweg as tw


def usual_loop(model, start, end, data, alphas):
    """Evaluate the line as it is commonly done."""
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=128)
    losses = []
    for alpha in alphas:
        model.load_state_dict({k: (1 - alpha) * start[k] + alpha * end[k] for k in start})
        total = 0.0
        with torch.no_grad():
            for x, y in loader:
                total += torch.nn.functional.cross_entropy(model(x), y, reduction="sum").item()
        losses.append(total / len(data[0]))
    return np.array(losses)


def network(seed, widths):
    """Return a ReLU network."""
    torch.manual_seed(seed)
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def main():
    """Run the pairs and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--points", type=int, default=51)
    parser.add_argument("--examples", type=int, default=10_000)
    options = parser.parse_args()
    alphas = tw.Uniform(0, 1, options.points).coordinates()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; usual loop / thalweg")
    for widths in ((784, 1200, 1200, 10), (64, 64, 64, 10)):
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(options.examples, widths[0], generator=generator)
        y = torch.randint(0, 10, (options.examples,), generator=generator)
        first, second = network(0, widths), network(1, widths)
        start, end = ({k: v.clone() for k, v in m.state_dict().items()} for m in (first, second))
        ratios = []
        for _ in range(options.pairs):
            clock = time.perf_counter()
            expected = usual_loop(first, start, end, (x, y), alphas)
            usual = time.perf_counter() - clock
            clock = time.perf_counter()
            objective = tw.ModelObjective(second, torch.nn.CrossEntropyLoss(), (x, y))
            line = tw.Line(objective.space.flatten(start), objective.space.flatten(end))
            result = tw.profile(objective, line, alphas, progress=False)
            ours = time.perf_counter() - clock
            np.testing.assert_allclose(result.loss["train"], expected, rtol=1e-6)
            ratios.append(usual / ours)
        name = "-".join(map(str, widths))
        print(
            f"{name:20} median {statistics.median(ratios):5.2f}x  "
            f"(min {min(ratios):.2f}, max {max(ratios):.2f}, {options.pairs} pairs)"
        )


if __name__ == "__main__":
    main()
