//go:build modules

// Package modules imports the programs that are built from this module, so
// that `go mod tidy` keeps them.
package modules

import (
	_ "helm.sh/helm/v4/cmd/helm"
)
