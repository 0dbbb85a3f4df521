package registry

import (
	"net/http"
	"regexp"
	"strings"
)

var (
	nameForm   = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	uploadForm = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

const maxName = 255

// digest is "sha256:" and 64 hexadecimal digits.
type digest string

func (d digest) hex() string  { return strings.TrimPrefix(string(d), "sha256:") }
func (d digest) blob() string { return "blobs/sha256/" + d.hex() }

func parseDigest(s string) (digest, error) {
	if !digestForm.MatchString(s) {
		return "", faultf(http.StatusBadRequest, "DIGEST_INVALID", "%q is not a digest: it must be sha256: and 64 hexadecimal digits", s)
	}
	return digest(s), nil
}

func checkName(s string) error {
	if len(s) > maxName || !nameForm.MatchString(s) {
		return faultf(http.StatusBadRequest, "NAME_INVALID", "%q is not a repository's name: lower-case words of letters and digits, joined by . _ - and /", s)
	}
	return nil
}

// target is what a request's path names.
type target struct {
	kind string // base, catalog, blob, uploads, upload, manifest, tags, referrers
	name string // of the repository
	ref  string // digest, tag or upload
}

// parse cuts a path from its end: repositories' names hold slashes.
func parse(path string) (target, error) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if path == "/v2" || rest == "" && ok {
		return target{kind: "base"}, nil
	}
	if rest == "_catalog" {
		return target{kind: "catalog"}, nil
	}
	s := strings.Split(rest, "/")
	n := len(s)
	last := func(i int) string {
		if i > n {
			return ""
		}
		return s[n-i]
	}
	t, words := target{}, 2
	switch {
	case last(2) == "tags" && last(1) == "list":
		t = target{kind: "tags"}
	case last(3) == "blobs" && last(2) == "uploads" && last(1) == "":
		t, words = target{kind: "uploads"}, 3
	case last(3) == "blobs" && last(2) == "uploads":
		t, words = target{kind: "upload", ref: last(1)}, 3
	case last(2) == "blobs" && last(1) == "uploads":
		t = target{kind: "uploads"}
	case last(2) == "blobs":
		t = target{kind: "blob", ref: last(1)}
	case last(2) == "manifests":
		t = target{kind: "manifest", ref: last(1)}
	case last(2) == "referrers":
		t = target{kind: "referrers", ref: last(1)}
	default:
		return t, faultf(http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	}
	t.name = strings.Join(s[:n-words], "/")
	return t, checkName(t.name)
}
