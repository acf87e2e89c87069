// Command harness holds what a test cluster needs besides the programs of
// Kubernetes, and what a shell does badly: certificates, a way into the
// cluster's network, and the approval of serving certificates.
package main

import (
	"fmt"
	"os"
)

var commands = map[string]func(args []string) error{
	"pki":     pki,
	"forward": forward,
	"approve": approve,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: harness {pki|forward|approve} [flag]...")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "harness %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
