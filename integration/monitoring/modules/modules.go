//go:build modules

// Package modules imports what is taken from this module's dependencies, so that `go mod tidy` keeps them.
package modules

import (
	// Its definitions of ServiceMonitor and PrometheusRule (example/prometheus-operator-crd) are copied.
	_ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"
)
