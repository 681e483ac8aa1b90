// SPDX-License-Identifier: Apache-2.0

// Command weft is a service mesh in one binary: servers, agents, sidecars and the commands to work with them.
package main

import (
	"os"

	"github.com/weftmesh/weft/cli"
)

func main() { os.Exit(cli.Main(os.Args)) }
