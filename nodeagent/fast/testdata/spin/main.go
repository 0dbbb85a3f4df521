// Spin is a function that works without being called: it shows whether it runs.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

func main() {
	var turns atomic.Int64
	go func() {
		for {
			turns.Add(1)
		}
	}()
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	go func() {
		<-end
		os.Exit(3) // nobody but SIGTERM makes it end so
	}()
	err := http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, turns.Load()) }))
	fmt.Println(err)
	os.Exit(1)
}
