// Package function signs the guestbook: it tidies a text up and gives it to the
// store, which it finds by its Service's name.
package function

import (
	"net/http"
	"os"
	"strings"
	"time"
	"unicode"
)

const longest = 200 // characters of an entry

var client = &http.Client{Timeout: 5 * time.Second}

// Handle takes a form's field "text" and sends the browser back to the page.
func Handle(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 10_000)
	text := tidy(r.PostFormValue("text"))
	if text == "" {
		http.Error(w, "send a form with the field text", http.StatusBadRequest)
		return
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, os.Getenv("STORE"), strings.NewReader(text))
	if err != nil {
		http.Error(w, "STORE: "+err.Error(), http.StatusInternalServerError)
		return
	}
	resp, err := client.Do(req)
	if err != nil {
		http.Error(w, "the store: "+err.Error(), http.StatusBadGateway)
		return
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		http.Error(w, "the store: "+resp.Status, http.StatusBadGateway)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// tidy makes one line of a text, with a capital letter at its beginning.
func tidy(s string) string {
	words := []rune(strings.Join(strings.Fields(s), " "))
	words = words[:min(len(words), longest)]
	if len(words) > 0 {
		words[0] = unicode.ToUpper(words[0])
	}
	return string(words)
}
