package main

import (
	"context"
	"os"

	"github.com/podsnap/podsnap/functions/watchdog/host"
)

func main() { os.Exit(host.Main(context.Background(), nil)) }
