//go:build tools

// The program that tests/mesh builds from this module.
package tools

import _ "github.com/envoyproxy/gateway/cmd/envoy-gateway"
