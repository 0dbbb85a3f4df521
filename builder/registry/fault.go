package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
)

// fault is an error of the distribution specification.
type fault struct {
	status  int
	code    string
	message string
}

func (f *fault) Error() string { return f.code + ": " + f.message }

func faultf(status int, code, format string, args ...any) *fault {
	return &fault{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// asFault makes any error one of the specification's.
func asFault(err error) *fault {
	var f *fault
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &large):
		return faultf(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "more than %d bytes", large.Limit)
	case errors.Is(err, fs.ErrNotExist):
		return faultf(http.StatusNotFound, "NAME_UNKNOWN", "not found")
	}
	return faultf(http.StatusInternalServerError, "UNKNOWN", "%v", err)
}

func (f *fault) write(w http.ResponseWriter, head bool) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.status)
	if head {
		return
	}
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	_ = json.NewEncoder(w).Encode(map[string][]entry{"errors": {{f.code, f.message}}})
}
