"""What Kubernetes does to replicas, done to real ones: kubelet, endpoints and controllers, without a cluster.

Pods are real ``warmswap serve`` processes, configured, probed, drained and killed as the rendered manifest says; Envoy
sends them traffic as the endpoints say. Sources of the behaviour are the documentation of Kubernetes and, where that is
silent, its code: ``pkg/kubelet/prober/worker.go``, ``pkg/kubelet/kuberuntime/kuberuntime_container.go``,
``pkg/controller/controller_utils.go`` (``ActivePodsWithRanks``), ``pkg/controller/deployment/rolling.go``.
"""
