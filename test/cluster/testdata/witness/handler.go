// Package function is what the cluster's tests call: it says to somebody else
// that it was called before it answers.
package function

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

var client = &http.Client{Timeout: 5 * time.Second}

// fetch answers with what somebody else answers, over a connection of its own.
func fetch(w http.ResponseWriter, url string) {
	c := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// Handle sends the body back. When WITNESS is set, it is the URL that is told
// the id of each call; a call of which nobody could be told fails.
func Handle(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if d, err := time.ParseDuration(r.URL.Query().Get("sleep")); err == nil {
		time.Sleep(d)
	}
	if url := os.Getenv("WITNESS"); url != "" && r.URL.Query().Has("tell") {
		resp, err := client.Post(url, "text/plain", bytes.NewReader([]byte(r.Header.Get("X-Call-Id"))))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			http.Error(w, resp.Status, http.StatusInternalServerError)
			return
		}
	}
	if url := r.URL.Query().Get("fetch"); url != "" {
		fetch(w, url)
		return
	}
	if r.URL.Path == "/hostname" {
		name, _ := os.Hostname()
		fmt.Fprint(w, name)
		return
	}
	_, _ = w.Write(body)
}
