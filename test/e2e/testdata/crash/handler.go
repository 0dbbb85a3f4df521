// Package function ends before it serves.
package function

import (
	"net/http"
	"os"
)

var _ = func() bool { os.Stderr.WriteString("no way to start\n"); os.Exit(7); return true }()

// Handle is never reached.
func Handle(http.ResponseWriter, *http.Request) {}
