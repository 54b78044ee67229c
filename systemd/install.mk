# make install, make uninstall: the unit with all that it needs, under PREFIX (and, for packages, below DESTDIR).
#
#   PREFIX/lib/ebpf-supervisor/            a virtual environment that sees Debian's python3-bpfcc, and `installed`,
#                                          the list of what lies elsewhere
#   PREFIX/bin/                            ebpf-supervisor, ebpfctl: links into it
#   PREFIX/lib/{systemd/system,sysusers.d,tmpfiles.d}/
#   PREFIX/share/doc/ebpf-supervisor/
#   PREFIX/share/man/man8/, and completion where bash and zsh look for it
#   PLUGINSDIR/ebpf-supervisor.plugin      a link, in Netdata's plugins.d
#   SYSCONFDIR/ebpf-supervisor/            configuration: what is there stays
#
# With another PREFIX than /usr/local or /usr systemd does not find the unit: set UNITDIR and its like too.

PREFIX      ?= /usr/local
SYSCONFDIR  ?= /etc
TREE        := $(PREFIX)/lib/ebpf-supervisor
UNITDIR     ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
DOCDIR      ?= $(PREFIX)/share/doc/ebpf-supervisor
MANDIR      ?= $(PREFIX)/share/man/man8
BASHDIR     ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR      ?= $(PREFIX)/share/zsh/site-functions
CONFDIR     := $(SYSCONFDIR)/ebpf-supervisor
# Where the agent on this machine looks for plugins; where its own packages have them when there is none.
PLUGINSDIR  ?= $(firstword $(wildcard /usr/libexec/netdata/plugins.d /usr/lib/netdata/plugins.d \
                 /opt/netdata/usr/libexec/netdata/plugins.d) /usr/libexec/netdata/plugins.d)
COMMANDS    := ebpf-supervisor ebpfctl ebpf-supervisor.plugin
COMPLETED   := ebpf-supervisor ebpfctl
CONFIG      := $(shell cd conf && find . -name '*.conf' -printf '%P\n')
LIVE        := $(if $(DESTDIR),,$(wildcard /run/systemd/system))

.PHONY: install uninstall

install: $(INSTALL_NEEDS)
	@umask 022 && $(call make_tree,$(DESTDIR)$(TREE).new)
	@umask 022 && rm -rf '$(DESTDIR)$(TREE)' && mv '$(DESTDIR)$(TREE).new' '$(DESTDIR)$(TREE)'
	@umask 022 && for name in $(CONFIG); do \
	    test -e "$(DESTDIR)$(CONFDIR)/$$name" || install -D -m 644 "conf/$$name" "$(DESTDIR)$(CONFDIR)/$$name"; done
	@$(call put_link,$(TREE)/bin/ebpf-supervisor,$(PREFIX)/bin/ebpf-supervisor)
	@$(call put_link,$(TREE)/bin/ebpfctl,$(PREFIX)/bin/ebpfctl)
	@$(call put_link,$(TREE)/bin/ebpf-supervisor.plugin,$(PLUGINSDIR)/ebpf-supervisor.plugin)
	@$(call put_text,systemd/ebpf-supervisor.service,$(UNITDIR)/ebpf-supervisor.service)
	@$(call put_text,systemd/ebpf-supervisor.sysusers,$(SYSUSERSDIR)/ebpf-supervisor.conf)
	@$(call put_text,systemd/ebpf-supervisor.tmpfiles,$(TMPFILESDIR)/ebpf-supervisor.conf)
	@$(call put_text,docs/install.md,$(DOCDIR)/install.md)
	@$(foreach name,$(COMMANDS),$(call put_text,docs/man/$(name).8,$(MANDIR)/$(name).8) &&) true
	@$(foreach name,$(COMPLETED),$(call put_text,docs/completion/bash/$(name),$(BASHDIR)/$(name)) &&) true
	@$(foreach name,$(COMPLETED),$(call put_text,docs/completion/zsh/_$(name),$(ZSHDIR)/_$(name)) &&) true
	@$(if $(LIVE),systemd-sysusers '$(SYSUSERSDIR)/ebpf-supervisor.conf' && systemctl daemon-reload && \
	    echo 'installed; start it: systemctl enable --now ebpf-supervisor')

# Configuration that was changed stays, and is told of; what `installed` names goes.
uninstall:
	@$(if $(LIVE),systemctl disable --now --quiet ebpf-supervisor || true)
	@for name in $(CONFIG); do \
	    ! cmp -s "$(DESTDIR)$(CONFDIR)/$$name" "$(DESTDIR)$(TREE)/conf/$$name" || \
	    rm "$(DESTDIR)$(CONFDIR)/$$name"; done
	@test ! -e '$(DESTDIR)$(TREE)/installed' || \
	    while read -r path; do rm -f "$(DESTDIR)$$path"; done < '$(DESTDIR)$(TREE)/installed'
	@rm -rf '$(DESTDIR)$(TREE)'
	@rmdir --ignore-fail-on-non-empty '$(DESTDIR)$(CONFDIR)/ebpf.d' '$(DESTDIR)$(CONFDIR)' \
	    '$(DESTDIR)$(DOCDIR)' '$(DESTDIR)$(MANDIR)' '$(DESTDIR)$(BASHDIR)' '$(DESTDIR)$(ZSHDIR)' 2>/dev/null || true
	@find '$(DESTDIR)$(CONFDIR)' -type f -printf 'changed by you, and left: %p\n' 2>/dev/null || true
	@$(if $(LIVE),systemctl daemon-reload; \
	    ! getent passwd ebpf-supervisor >/dev/null || userdel ebpf-supervisor)

# A virtual environment at $(1) that believes to be at TREE: whatever names its place is given the later one.
# -I: an agent's PYTHONPATH, and the working directory, have no say in what is imported.
define make_tree
rm -rf '$(1)' build && mkdir -p '$(dir $(1))' && \
$(PYTHON) -m venv --system-site-packages '$(1)' && \
'$(1)/bin/pip' install --quiet --no-compile --ignore-installed . && rm -rf build && \
'$(1)/bin/pip' uninstall --quiet --yes setuptools pip 2>/dev/null && \
find '$(1)/bin' -type f $(COMMANDS:%=! -name '%') -delete && \
sed -i 's|$(1)|$(TREE)|g' '$(1)/pyvenv.cfg' $(COMMANDS:%='$(1)/bin/%') && \
sed -i "1s|^#!.*|#!$(TREE)/bin/python3 -I|" $(COMMANDS:%='$(1)/bin/%') && \
$(PYTHON) -m compileall -q -s '$(1)' -p '$(TREE)' '$(1)/lib' && \
cp -R conf '$(1)/conf' && : > '$(1)/installed'
endef

# A link to $(1) at $(2), and a file $(2) made of $(1) with the paths of this installation.
define put_link
mkdir -p -m 755 '$(DESTDIR)$(dir $(2))' && ln -sfn '$(1)' '$(DESTDIR)$(2)' && \
echo '$(2)' >> '$(DESTDIR)$(TREE)/installed'
endef

define put_text
mkdir -p -m 755 '$(DESTDIR)$(dir $(2))' && \
sed -e 's|/usr/local/lib/ebpf-supervisor|$(TREE)|g' -e 's|/usr/local/share/doc/ebpf-supervisor|$(DOCDIR)|g' \
    -e 's|/etc/ebpf-supervisor|$(CONFDIR)|g' '$(1)' > '$(DESTDIR)$(2)' && chmod 644 '$(DESTDIR)$(2)' && \
echo '$(2)' >> '$(DESTDIR)$(TREE)/installed'
endef
