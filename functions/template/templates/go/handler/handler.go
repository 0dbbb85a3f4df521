// Package function is a function: Handle is called for every request.
package function

import (
	"fmt"
	"io"
	"net/http"
)

// Handle greets whoever sends a name.
func Handle(w http.ResponseWriter, r *http.Request) {
	name, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "Hello, %s!\n", name)
}
