// Package function is one member of the ledger: it keeps lines in a file of its own,
// and knows the others by their names.
package function

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Page is what one member has.
type Page struct {
	Name    string   `json:"name"`
	Edition string   `json:"edition"`
	Lines   []string `json:"lines"`
}

const longest = 1000 // bytes of a line

var (
	mu     sync.Mutex
	file   = filepath.Join(os.Getenv("DATA"), "lines")
	client = &http.Client{Timeout: 3 * time.Second}
)

// Handle takes a POST's body down as a line, and is done when that is on the disk. A
// GET answers with the member's page, of /all with everybody's.
func Handle(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPost:
		write(w, r)
	case r.URL.Path == "/all":
		answer(w, all(r.Context()))
	default:
		p, err := page()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, p)
	}
}

func write(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, longest))
	line := strings.Join(strings.Fields(string(b)), " ")
	if err != nil || line == "" {
		http.Error(w, "a line has from 1 to 1000 bytes", http.StatusBadRequest)
		return
	}
	mu.Lock()
	defer mu.Unlock()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		defer f.Close()
		if _, err = fmt.Fprintln(f, line); err == nil {
			err = f.Sync()
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func page() (Page, error) {
	name, err := os.Hostname()
	if err != nil {
		return Page{}, err
	}
	mu.Lock()
	defer mu.Unlock()
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return Page{}, err
	}
	return Page{name, os.Getenv("EDITION"), strings.Split(strings.TrimSpace(string(b)), "\n")}, nil
}

// all asks every member by its name: NAME-0.SERVICE, NAME-1.SERVICE, …
func all(ctx context.Context) map[string]Page {
	n, _ := strconv.Atoi(os.Getenv("MEMBERS")) // none is none
	out := map[string]Page{}
	for i := range n {
		host := fmt.Sprintf("ledger-%d.ledger", i)
		if p, err := ask(ctx, "http://"+host+":8080/"); err == nil {
			out[host] = p
		}
	}
	return out
}

func ask(ctx context.Context, url string) (p Page, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return p, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return p, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return p, err
	}
	return p, json.NewDecoder(bytes.NewReader(b)).Decode(&p)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // who has gone needs none
}
