//go:build tools

// The programs that tests/mesh builds from this module, beside its own istiod.
package tools

import _ "istio.io/istio/pilot/cmd/pilot-agent"
