"""Components of heterogeneous jobs: on a cluster of four nodes, and on this machine."""
