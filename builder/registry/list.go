package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// maxPage bounds an answer; clients follow the Link header.
const maxPage = 1000

func ignoreEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// page cuts a sorted list as the query says, and links to the next page.
func page(w http.ResponseWriter, q *http.Request, list []string) ([]string, error) {
	v := q.URL.Query()
	n := maxPage
	if s := v.Get("n"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 0 {
			return nil, faultf(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n is %q", s)
		}
		n = min(n, maxPage)
	}
	slices.Sort(list)
	if last := v.Get("last"); last != "" {
		i, found := slices.BinarySearch(list, last)
		if found {
			i++
		}
		list = list[i:]
	}
	if len(list) <= n {
		return list, nil
	}
	list = list[:n]
	if n > 0 {
		w.Header().Set("Link", fmt.Sprintf(`<%s?n=%d&last=%s>; rel="next"`, q.URL.EscapedPath(), n, url.QueryEscape(list[n-1])))
	}
	return list, nil
}

func answerJSON(w http.ResponseWriter, contentType string, body any) error {
	w.Header().Set("Content-Type", contentType)
	return json.NewEncoder(w).Encode(body)
}

func (r *Registry) catalog(w http.ResponseWriter, q *http.Request) error {
	names := []string{}
	if err := r.eachRepo(func(name string) error { names = append(names, name); return nil }); err != nil {
		return err
	}
	names, err := page(w, q, names)
	if err != nil {
		return err
	}
	return answerJSON(w, "application/json", map[string]any{"repositories": names})
}

func (r *Registry) tags(w http.ResponseWriter, q *http.Request, name string) error {
	if _, err := r.manifests(name); err != nil {
		return faultf(http.StatusNotFound, "NAME_UNKNOWN", "no repository %s", name)
	}
	tags, _, err := r.tagList(name)
	if err != nil {
		return err
	}
	if tags, err = page(w, q, tags); err != nil {
		return err
	}
	return answerJSON(w, "application/json", map[string]any{"name": name, "tags": tags})
}

const indexType = "application/vnd.oci.image.index.v1+json"

// referrers lists the manifests that have the digest as their subject.
func (r *Registry) referrers(w http.ResponseWriter, q *http.Request, t target) error {
	d, err := parseDigest(t.ref)
	if err != nil {
		return err
	}
	found := []descriptor{}
	all, _ := r.manifests(t.name) // no repository has no referrers
	only := q.URL.Query().Get("artifactType")
	for _, m := range all {
		b, err := r.root.ReadFile(m.blob())
		if err != nil {
			continue
		}
		x := manifest{}
		if json.Unmarshal(b, &x) != nil || x.Subject == nil || x.Subject.Digest != d {
			continue
		}
		if x.ArtifactType == "" && x.Config != nil {
			x.ArtifactType = x.Config.MediaType
		}
		if only != "" && x.ArtifactType != only {
			continue
		}
		mediaType, err := r.root.ReadFile(manifestPath(t.name, m))
		if err != nil {
			continue
		}
		found = append(found, descriptor{MediaType: string(mediaType), Digest: m, Size: int64(len(b)), ArtifactType: x.ArtifactType, Annotations: x.Annotations})
	}
	if only != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return answerJSON(w, indexType, map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": found})
}
