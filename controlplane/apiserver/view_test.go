package apiserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/access"
)

// asNode has requests come from a node.
func asNode(h http.Handler, name, uid string) http.Handler {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: access.NodeUser(name), Organization: []string{access.Nodes}, SerialNumber: uid}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
		h.ServeHTTP(w, r)
	})
}

// told reads a watch of nodes up to the change that has the label end.
func told(t *testing.T, h http.Handler, query string) (lines []string) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/api/v1/nodes?watch=1"+query, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: %v after %d lines", query, err, len(lines))
		}
		lines = append(lines, line)
		if strings.Contains(line, `"end":"`) {
			cancel()
			_, _ = io.Copy(io.Discard, resp.Body)
			return lines
		}
	}
}

// A node is told of other nodes' places and not of what changes each minute, of itself
// everything, and who is no node of everything. A watch that resumes is told the same
// as one that went on.
func TestWhatNodesAreToldOfNodes(t *testing.T) {
	o := memory.New()
	ctx := t.Context()
	uid := ""
	for _, name := range []string{"n1", "n2"} {
		n, err := api.Create(ctx, o, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if err != nil {
			t.Fatal(err)
		}
		if name == "n1" {
			uid = string(n.UID)
		}
	}
	change := func(name, subresource string, f func(*corev1.Node)) string {
		n, err := api.Mutate(ctx, o, api.Nodes, "", name, api.UpdateOptions{Subresource: subresource}, func(n *corev1.Node) (bool, error) {
			f(n)
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n.ResourceVersion
	}
	begin := change("n2", "", func(n *corev1.Node) { n.Labels = map[string]string{"begin": "1"} })
	beat := func(image string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Status.Images = []corev1.ContainerImage{{Names: []string{image}}} }
	}
	middle := ""
	for i := range 600 { // enough for a bookmark
		middle = change("n2", "status", beat(fmt.Sprint("hidden", i)))
	}
	moved := change("n2", "status", func(n *corev1.Node) {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.2"}}
	})
	change("n1", "status", beat("hidden"))
	end := change("n2", "", func(n *corev1.Node) { n.Labels["end"] = "1" })
	h := server(t, Config{Objects: o})
	for _, tt := range []struct {
		name, query string
		h           http.Handler
		want        []string // resourceVersions; nil is any of them
		changes     int
	}{
		{"a node", "&resourceVersion=" + begin, asNode(h, "n1", uid), []string{moved, end}, 0},
		{"a node that resumes", "&resourceVersion=" + middle, asNode(h, "n1", uid), []string{moved, end}, 0},
		{"a node, of itself", "&resourceVersion=" + begin + "&fieldSelector=metadata.name%3Dn2", asNode(h, "n2", uidOf(t, o, "n2")), nil, 602},
		{"an administrator", "&resourceVersion=" + begin, h, nil, 603},
	} {
		lines := told(t, tt.h, tt.query)
		if tt.want == nil {
			if len(lines) != tt.changes {
				t.Errorf("%s is told %d changes, want %d", tt.name, len(lines), tt.changes)
			}
			continue
		}
		if len(lines) != len(tt.want) {
			t.Fatalf("%s is told %d changes, want %d: %v", tt.name, len(lines), len(tt.want), lines)
		}
		for i, rv := range tt.want {
			if !strings.Contains(lines[i], `"resourceVersion":"`+rv+`"`) || strings.Contains(lines[i], "hidden") {
				t.Errorf("%s: told %s, want revision %s and nothing that is not for others", tt.name, lines[i], rv)
			}
		}
	}
	lines := told(t, asNode(h, "n1", uid), "&allowWatchBookmarks=true&resourceVersion="+begin)
	if len(lines) != 3 || !strings.Contains(lines[0], `"BOOKMARK"`) || strings.Contains(lines[0], "hidden") {
		t.Errorf("with bookmarks: %d lines, want one, and the two changes: %v", len(lines), lines)
	}
}

func uidOf(t *testing.T, o api.Objects, node string) string {
	t.Helper()
	n, err := o.Get(t.Context(), api.Nodes, "", node)
	if err != nil {
		t.Fatal(err)
	}
	return string(n.GetUID())
}

// In every form of an answer a node sees its own pods whole, and of others what it
// needs.
func TestANodeSeesLittleOfOthersPods(t *testing.T) {
	o := memory.New()
	var uid string
	for _, obj := range []api.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "d", Labels: map[string]string{"app": "shown"}},
			Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "A", Value: "hidden"}}}}},
		},
	} {
		stored, err := o.Create(t.Context(), obj)
		if err != nil {
			t.Fatal(err)
		}
		if stored.GetName() == "n1" {
			uid = string(stored.GetUID())
		}
	}
	h := asNode(server(t, Config{Objects: o}), "n1", uid)
	for _, query := range []string{"", "?watch=1&timeoutSeconds=1", "?labelSelector=app%3Dshown", "?fieldSelector=spec.nodeName%3Dn1", "?watch=1&timeoutSeconds=1&fieldSelector=spec.nodeName%3Dn1"} {
		for _, accept := range []string{"application/json", "application/json;as=Table;v=v1;g=meta.k8s.io"} {
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/pods"+query, nil)
			r.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			own := strings.Contains(query, "nodeName")
			whole := own && !strings.Contains(accept, "Table") // whose rows have metadata alone
			body := w.Body.String()
			if w.Code != 200 || !strings.Contains(body, `"app":"shown"`) || strings.Contains(body, "hidden") != whole {
				t.Errorf("%s as %s: %d %s", query, accept, w.Code, body)
			}
		}
	}
}
