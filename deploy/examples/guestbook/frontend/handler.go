// Package function is the guestbook's page. It reads the store by its Service's
// name; its form goes to the function that signs.
package function

import (
	"encoding/json"
	"html/template"
	"net/http"
	"os"
	"time"
)

var page = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Guestbook</title>
<h1>Guestbook</h1>
<form method="post" action="/sign"><input name="text" maxlength="200" required autofocus> <button>Sign</button></form>
<ul>{{range .Entries}}
<li>{{.Text}} <small>{{.Time.Format "15:04:05"}}</small></li>{{end}}
</ul>
<p><small>served by {{.Host}}</small></p>
</html>
`))

var client = &http.Client{Timeout: 5 * time.Second}

// Handle answers with the page.
func Handle(w http.ResponseWriter, r *http.Request) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, os.Getenv("STORE"), http.NoBody)
	if err != nil {
		http.Error(w, "STORE: "+err.Error(), http.StatusInternalServerError)
		return
	}
	resp, err := client.Do(req)
	if err != nil {
		http.Error(w, "the store: "+err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	var show struct {
		Entries []struct {
			Time time.Time
			Text string
		}
		Host string
	}
	if err := json.NewDecoder(resp.Body).Decode(&show.Entries); err != nil {
		http.Error(w, "the store: "+err.Error(), http.StatusBadGateway)
		return
	}
	if show.Host, err = os.Hostname(); err != nil {
		show.Host = "somebody"
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page.Execute(w, show) // who has gone needs none
}
