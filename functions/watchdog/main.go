package main

import (
	"os"

	"github.com/podsnap/podsnap/functions/watchdog/host"
)

func main() { os.Exit(host.Main(nil)) }
