#!/bin/sh
# What the kernel's command line asks to be wrong with this machine, before cloud-init runs.
for word in $(cat /proc/cmdline); do
  case $word in
    test.free_mib=*) # so much is left on the disk
      free=$(df --output=avail -k / | tail -1)
      fallocate -l $((free - ${word#*=} * 1024))k /var/filler
      ;;
    test.packages=*) # the packages' source is this one
      sed -i "s|^deb [^ ]*|deb ${word#*=}|" /etc/apt/sources.list
      ;;
  esac
done
