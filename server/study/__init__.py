"""The comparative study: regimes of training x kinds of generator, judged by fidelity, diversity, cost and use."""
