package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// No date: whoever stores the log stamps each line.
	logger := log.New(os.Stderr, "", 0)
	c, err := read(os.Getenv)
	if err != nil {
		logger.Fatalf("watchdog: %v", err)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	if err := newWatchdog(c, logger).run(context.Background(), signals); err != nil {
		fmt.Fprintf(os.Stderr, "watchdog: %v\n", err)
		os.Exit(1)
	}
}
