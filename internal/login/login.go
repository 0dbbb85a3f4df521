// Package login keeps the credentials of gateways in the file that faas-cli
// uses too (~/.openfaas/config.yml), so that a login with one tool serves the
// other.
package login

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// File is the file's content.
type File struct {
	Auths []Auth `json:"auths"`
}

// Auth is one gateway's credentials.
type Auth struct {
	Gateway string   `json:"gateway"`
	Kind    string   `json:"auth"`  // "basic" or "bearer"
	Token   string   `json:"token"` // base64 of user:password, or the bearer token
	Options []Option `json:"options,omitempty"`
}

// Option is kept for other tools.
type Option struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Path is where the file is: OPENFAAS_CONFIG (a folder) or ~/.openfaas.
func Path() (string, error) {
	if d := os.Getenv("OPENFAAS_CONFIG"); d != "" {
		return filepath.Join(d, "config.yml"), nil
	}
	if os.Getenv("CI") == "true" {
		return filepath.Join(".openfaas", "config.yml"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the folder of the login file (set OPENFAAS_CONFIG): %w", err)
	}
	return filepath.Join(home, ".openfaas", "config.yml"), nil
}

// Load reads the file; one that is not there is empty.
func Load(path string) (File, error) {
	var f File
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	if err := yaml.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("login file %s: %w", path, err)
	}
	return f, nil
}

// Save writes the file, readable by its owner only.
func Save(path string, f File) error {
	b, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Set puts basic credentials of a gateway into f.
func (f *File) Set(gateway, user, password string) {
	f.Remove(gateway)
	f.Auths = append(f.Auths, Auth{
		Gateway: key(gateway), Kind: "basic",
		Token: base64.StdEncoding.EncodeToString([]byte(user + ":" + password)),
	})
}

// Remove forgets a gateway and says whether it was known.
func (f *File) Remove(gateway string) bool {
	for i, a := range f.Auths {
		if key(a.Gateway) == key(gateway) {
			f.Auths = append(f.Auths[:i:i], f.Auths[i+1:]...)
			return true
		}
	}
	return false
}

// Basic finds a gateway's user and password.
func (f File) Basic(gateway string) (user, password string, ok bool) {
	for _, a := range f.Auths {
		if key(a.Gateway) != key(gateway) || a.Kind != "basic" {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(a.Token)
		if err != nil {
			continue
		}
		return cut(string(b))
	}
	return "", "", false
}

// Bearer finds a gateway's token.
func (f File) Bearer(gateway string) string {
	for _, a := range f.Auths {
		if key(a.Gateway) == key(gateway) && a.Kind != "basic" {
			return a.Token
		}
	}
	return ""
}

func cut(s string) (user, password string, ok bool) { return strings.Cut(s, ":") }

// key makes one name of the ways to write a gateway's URL.
func key(gateway string) string {
	g := strings.TrimSuffix(strings.TrimSpace(gateway), "/")
	if u, err := url.Parse(g); err == nil && u.Hostname() == "localhost" {
		g = strings.Replace(g, "localhost", "127.0.0.1", 1)
	}
	return strings.ToLower(g)
}
