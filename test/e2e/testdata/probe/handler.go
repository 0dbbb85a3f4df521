// Package function is what the tests deploy: it does as the request says.
package function

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

var hoard [][]byte

// Handle sleeps, burns, fails, hoards memory or shows its surroundings, and otherwise
// sends the body back.
func Handle(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if d, err := time.ParseDuration(q.Get("sleep")); err == nil {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
			fmt.Println("cancelled")
			return
		}
	}
	if d, err := time.ParseDuration(q.Get("burn")); err == nil { // a core's time
		for end := time.Now().Add(d); time.Now().Before(end); {
		}
	}
	if n, err := strconv.Atoi(q.Get("hoard")); err == nil { // MiB
		for range n {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			hoard = append(hoard, b)
		}
	}
	if s := q.Get("say"); s != "" {
		fmt.Println(s)
	}
	if c, err := strconv.Atoi(q.Get("exit")); err == nil {
		os.Exit(c)
	}
	switch r.URL.Path {
	case "/env":
		_ = json.NewEncoder(w).Encode(os.Environ())
		return
	case "/headers":
		_ = json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "path": r.URL.Path, "query": r.URL.RawQuery, "headers": r.Header, "host": r.Host})
		return
	case "/secret":
		b, err := os.ReadFile("/var/openfaas/secrets/" + q.Get("name"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(b)
		return
	case "/get": // what another server says
		resp, err := (&http.Client{Timeout: 2 * time.Second}).Get(q.Get("url"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(w, resp.Body)
		return
	case "/api":
		askAPI(w, q.Get("path"), q.Get("at"))
		return
	case "/hear":
		hearGroup(w)
		return
	case "/tell":
		tellGroup(w, q.Get("what"))
		return
	case "/hostname":
		h, _ := os.Hostname()
		fmt.Fprint(w, h)
		return
	case "/stream":
		f := w.(http.Flusher)
		for i := range 5 {
			fmt.Fprintf(w, "line %d\n", i)
			f.Flush()
			time.Sleep(20 * time.Millisecond)
		}
		return
	}
	if c, err := strconv.Atoi(q.Get("status")); err == nil {
		if l := q.Get("location"); l != "" {
			w.Header().Set("Location", l)
		}
		w.WriteHeader(c)
	}
	_, _ = io.Copy(w, r.Body)
}
