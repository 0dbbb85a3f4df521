package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/podsnap/podsnap/internal/login"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
)

func (o *options) loginCmd() *cobra.Command {
	var user, password, stateDir string
	var fromStdin bool
	cmd := &cobra.Command{
		Use: "login", Short: "Remember a gateway's credentials",
		Long: `Checks the credentials with the gateway and remembers them in
~/.openfaas/config.yml, where faas-cli finds them too. Without a password the
one that this machine's platform made at its first start is used.`,
		Example: "  faas login\n  cat password | faas login -u admin --password-stdin -g https://faas.example.com",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.short(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			switch {
			case fromStdin:
				line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
				if err != nil && err != io.EOF {
					return err
				}
				password = strings.TrimSpace(line)
			case password == "":
				file := filepath.Join(stateDir, "auth", "basic-auth-password")
				b, err := os.ReadFile(file)
				if err != nil {
					return usagef("no password: give one with --password-stdin (%w)", err)
				}
				password = strings.TrimSpace(string(b))
			}
			if password == "" {
				return usagef("the password is empty")
			}
			c.User, c.Password, c.Token = user, password, ""
			if _, err := c.Functions(ctx, ""); err != nil {
				if openfaas.StatusOf(err) == 401 {
					return fmt.Errorf("%s refuses this user and password: %w", c.URL, err)
				}
				return o.explain(err, c)
			}
			path, err := login.Path()
			if err != nil {
				return err
			}
			f, err := login.Load(path)
			if err != nil {
				return err
			}
			f.Set(c.URL, user, password)
			if err := login.Save(path, f); err != nil {
				return fmt.Errorf("remember the login: %w", err)
			}
			say(cmd, "logged in to %s as %s", c.URL, user)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&user, "username", "u", "admin", "user")
	f.StringVarP(&password, "password", "p", "", "password (visible to others on this machine: prefer --password-stdin)")
	f.BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	f.BoolVarP(&fromStdin, "stdin", "s", false, "the same as --password-stdin")
	f.StringVar(&stateDir, "state-dir", defaultStateDir(), "state directory of this machine's platform")
	return cmd
}

func (o *options) logoutCmd() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Forget a gateway's credentials", Args: cobra.NoArgs,
		Example: "  faas logout\n  faas logout -g https://faas.example.com",
		RunE: func(cmd *cobra.Command, _ []string) error {
			g, err := o.url("")
			if err != nil {
				return err
			}
			path, err := login.Path()
			if err != nil {
				return err
			}
			f, err := login.Load(path)
			if err != nil {
				return err
			}
			if !f.Remove(g) {
				say(cmd, "there was no login for %s", g)
				return nil
			}
			say(cmd, "logged out of %s", g)
			return login.Save(path, f)
		},
	}
}

func defaultStateDir() string {
	if d := os.Getenv("PODSNAP_STATE_DIR"); d != "" {
		return d
	}
	return "/var/lib/podsnap"
}
