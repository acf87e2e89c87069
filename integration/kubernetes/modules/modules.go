//go:build modules

// Package modules imports the programs that are built from this module but
// not imported by any code of ours, so that `go mod tidy` keeps them.
package modules

import (
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
	_ "k8s.io/kubernetes/test/images/agnhost"
)
