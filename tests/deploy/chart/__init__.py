"""Tests of the Helm chart: rendered by real Helm 3 and Helm 4, judged by the schemas of Kubernetes and by what it must mean."""
