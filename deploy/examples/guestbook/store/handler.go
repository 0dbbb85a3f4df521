// Package function is the guestbook's store: it keeps what was signed in memory,
// so that it runs once and forgets with its pod.
package function

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Entry is one line of the book.
type Entry struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

const (
	most    = 100  // entries that are kept, the newest
	longest = 1000 // bytes of one
)

var (
	mu      sync.Mutex
	entries = []Entry{}
)

// Handle answers with all entries as JSON, or adds the one in a POST's body.
func Handle(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, longest))
		text := strings.TrimSpace(string(b))
		if err != nil || text == "" {
			http.Error(w, "an entry has from 1 to 1000 bytes", http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		entries = append(entries, Entry{Time: time.Now().UTC(), Text: text})
		entries = entries[max(0, len(entries)-most):]
		w.WriteHeader(http.StatusCreated)
		return
	}
	mu.Lock()
	defer mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(entries) // who has gone needs none
}
