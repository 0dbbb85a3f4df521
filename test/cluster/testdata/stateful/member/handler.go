// Package function is a pod of a StatefulSet that says, as long as it runs, who it is:
// its name, what it has called itself in this life, and how many lives its disk has
// seen.
package function

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var life = begin()

func begin() string {
	me := rand.Text()
	name, _ := os.Hostname()
	lives := note(me)
	go func() {
		client := &http.Client{Timeout: time.Second}
		for range time.Tick(100 * time.Millisecond) {
			resp, err := client.Post(os.Getenv("WITNESS"), "text/plain", strings.NewReader(fmt.Sprintf("%s %s %d", name, me, lives)))
			if err == nil {
				resp.Body.Close()
			}
		}
	}()
	return me
}

// note adds a life to the disk's and answers with their number.
func note(me string) int {
	file := filepath.Join(os.Getenv("DATA"), "lives")
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0
	}
	defer f.Close()
	_, _ = fmt.Fprintln(f, me)
	_ = f.Sync()
	b, _ := os.ReadFile(file)
	return strings.Count(string(b), "\n")
}

// Handle answers with this life's name.
func Handle(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, life) }
