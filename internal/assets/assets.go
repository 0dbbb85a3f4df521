// Package assets holds the small static programs that the platform puts into
// containers, the one that starts them, and the one that keeps its sockets. `make
// assets` builds them into bin/ before the faas binary is built; bin/ is not tracked.
package assets

import (
	"embed"
	"fmt"
)

//go:embed all:bin
var bin embed.FS

// Watchdog is the program that serves a function inside its container.
func Watchdog() ([]byte, error) { return read("watchdog") }

// Pause is the program that holds a pod's namespaces.
func Pause() ([]byte, error) { return read("pause") }

// Launcher is the program that starts the containers of the fast runtime.
func Launcher() ([]byte, error) { return read("launcher") }

// SocketHolder is the program that keeps the platform's sockets while it restarts.
func SocketHolder() ([]byte, error) { return read("holder") }

func read(name string) ([]byte, error) {
	b, err := bin.ReadFile("bin/" + name)
	if err != nil {
		return nil, fmt.Errorf("this faas binary was built without %s: run `make build`: %w", name, err)
	}
	return b, nil
}
