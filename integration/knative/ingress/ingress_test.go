// Package ingress runs the conformance suite of knative.dev/networking on the
// ingress of a test cluster: scripts/conformance ingress compiles and runs it.
package ingress

import (
	"testing"

	"knative.dev/networking/test/conformance/ingress"
)

func TestIngress(t *testing.T) { ingress.RunConformance(t) }
